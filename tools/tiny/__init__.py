"""How the small models that ship are made: their text, their training from an empty folder, their measures."""
