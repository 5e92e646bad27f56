"""Collection: what is live, what is to go, and how it goes (docs/collection.md). A process of its own."""
