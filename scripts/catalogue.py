"""Write `tokenbench/methods/catalogue.json`: what commands that run no model know of methods and backbones."""

from tokenbench.core import atomic
from tokenbench.errors import TokenbenchError
from tokenbench.methods import catalogue, listing

if __name__ == "__main__":
    atomic.write(catalogue.FILE, catalogue.text(listing.everything()), TokenbenchError)
