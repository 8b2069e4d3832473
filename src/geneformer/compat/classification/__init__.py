"""Cell and gene classification under the published names."""
