"""What a pretrained model sees in cells: embeddings, attention, masked genes."""
