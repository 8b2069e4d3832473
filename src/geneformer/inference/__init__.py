"""What a pretrained model says of cells: embeddings, attention, masked genes."""
