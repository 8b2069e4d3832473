"""Multi-task classification under the published names."""
