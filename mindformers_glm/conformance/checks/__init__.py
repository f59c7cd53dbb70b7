"""The checks. A new one is one function with `@check(...)`, in a file here, which is imported when the kit starts."""
