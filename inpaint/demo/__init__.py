"""The page on which photographs are filled, and the server behind it."""
