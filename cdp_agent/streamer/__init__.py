"""The streamer: follows the journal and ships it, cut by cut. It never touches the guests' write path."""
