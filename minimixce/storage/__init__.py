"""Files, formats and checks of arguments."""
