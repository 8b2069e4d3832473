"""Perturbation written out: one cell, one edit, `transformers`' BERT, no batches; slow and obviously right."""

import math

import torch


def edited(cell, steps, special, max_length):
    """Token list after the steps, the original without what had no room, or None where they do not apply."""
    genes = [token for token in cell if token not in special]
    front = list(cell[: cell.index(genes[0])]) if genes else list(cell)
    back = list(cell[len(front) + len(genes) :])
    before = list(genes)
    for edit, tokens, dose in steps:
        if edit == "overexpress":
            genes = list(tokens) + [gene for gene in genes if gene not in tokens]
            continue
        if not set(tokens) <= set(genes):
            return None
        if edit == "delete":
            genes = [gene for gene in genes if gene not in tokens]
            continue
        n, sign = len(genes), 1 if edit == "inhibit" else -1
        places = {}
        for place, gene in enumerate(genes):
            goal = min(max(place + sign * max(round(dose * n), 1), 0), n - 1) + sign * 0.5
            places[gene] = goal if gene in tokens else place
        genes = sorted(genes, key=lambda gene: places[gene])
    if not genes or genes == before:
        return None
    room = max_length - len(front) - len(back)
    kept, lost = genes[:room], set(genes[room:])
    compared = [gene for gene in before if gene not in lost]
    return front + kept + back, front + compared + back


def states(bert, cell, layer):
    """Hidden states of one cell, ``(L, D)``."""
    with torch.no_grad():
        found = bert(input_ids=torch.tensor([cell]), output_hidden_states=True).hidden_states
    return found[len(found) - 1 + layer][0]


def cosine(a, b):
    return float((a * b).sum() / (a.norm() * b.norm()))


def vector(hidden, cell, special, pooling):
    if pooling == "cls":
        return hidden[0]
    places = [place for place, token in enumerate(cell) if token not in special]
    weights = torch.tensor([1 / (1 + rank / 100) if pooling == "rank" else 1.0 for rank in range(len(places))])
    return (hidden[places] * weights[:, None]).sum(0) / weights.sum()


def effects(bert, cell, steps, special, max_length, *, layer, pooling, goals=None):
    """``(similarity or shifts, {gene: similarity})``, or None."""
    pair = edited(list(cell), steps, special, max_length)
    if pair is None:
        return None
    after, before = (states(bert, row, layer) for row in pair)
    touched = {token for _, tokens, _ in steps for token in tokens} | set(special)
    genes = {
        token: cosine(after[place], before[pair[1].index(token)])
        for place, token in enumerate(pair[0])
        if token not in touched
    }
    new, old = (vector(h, row, special, pooling) for h, row in zip((after, before), pair, strict=True))
    if goals is not None:
        return [cosine(new, goal) - cosine(old, goal) for goal in goals], genes
    if pooling == "cls":
        return cosine(new, old), genes
    ranks = {token: rank for rank, token in enumerate(token for token in pair[0] if token not in special)}
    weights = {token: 1 / (1 + ranks[token] / 100) if pooling == "rank" else 1.0 for token in genes}
    mean = sum(weights[token] * genes[token] for token in genes) / sum(weights.values()) if genes else math.nan
    return mean, genes
