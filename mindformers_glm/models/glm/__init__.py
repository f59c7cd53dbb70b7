"""ChatGLM2 and ChatGLM3: configuration, weight table, network."""
