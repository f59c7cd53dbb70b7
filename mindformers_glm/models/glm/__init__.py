"""The one network of the GLM family, from ChatGLM2 to GLM-4: configuration, weight table, layers."""
