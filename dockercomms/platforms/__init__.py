"""Parts of the standard library that differ by system, check too little, or start too slowly."""
