"""psycopg under trio, migrations, the embedded server, and one store per aggregate."""
