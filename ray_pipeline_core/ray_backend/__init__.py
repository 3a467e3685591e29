"""The only code that imports ray."""
