"""Fine-tune, evaluate and deploy the GLM family on MindSpore."""
