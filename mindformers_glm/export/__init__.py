"""The network as MindIR, its form for MindSpore Lite 2.0, and the engine over the real Lite runtime."""
