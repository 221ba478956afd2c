"""What several tests share: networks, data, processes, and checks of results."""
