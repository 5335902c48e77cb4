"""What Alembic runs for each migration: on the connection, and in the transaction, that it is given."""

from alembic import context

from mlops_ray.governance.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
