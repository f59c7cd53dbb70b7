"""The old place of `mindformers_glm.files`."""

from mindformers_glm.files import (  # noqa: F401
    atomic_write,
    claim,
    is_temporary,
    release,
    remove_abandoned,
    sync_folder,
    write_text,
)
