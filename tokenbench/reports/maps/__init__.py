"""Token maps as pictures, numbers in files, and a page to play with."""
