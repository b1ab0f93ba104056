"""The import from the reference product's database, with its stores."""
