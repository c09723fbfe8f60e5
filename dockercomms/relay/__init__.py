"""Messages moved from repository to repository, and removed when they have expired."""
