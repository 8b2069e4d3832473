"""What a pretraining run begins with: an encoder of random weights, or one that has learnt before."""

from geneformer.errors import CheckpointError, OutOfRangeError
from geneformer.models.architectures import architecture_config
from geneformer.models.checkpoint import read_config
from geneformer.models.extensions import ATTENTION_WINDOW, RELATIVE_CLIP
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import find_folder, load_model, recognize_vocabulary
from geneformer.options import PretrainOptions
from geneformer.vocab.vocabulary import Vocabulary


def check_start(options: PretrainOptions, vocabulary: Vocabulary) -> None:
    """Refuse a model to go on from that belongs to another vocabulary, before any work.

    Raises
    ------
    VocabularyMismatchError
        It belongs to another one.
    UnknownModelError, CheckpointError
        There is no such model, or it is incomplete.
    """
    if options.start_from:
        folder = find_folder(options.start_from)
        recognize_vocabulary(read_config(folder), folder, vocabulary)


def initial_model(options: PretrainOptions, vocabulary: Vocabulary) -> GeneformerForMaskedLM:
    """The network before its first step; random weights come from PyTorch's global generator.

    Parameters
    ----------
    options
        Architecture and extensions, or the model to go on from.
    vocabulary
        Vocabulary of the tokens.

    Raises
    ------
    CheckpointError
        The model to go on from has no vocabulary head, so that it cannot predict masked genes.
    VocabularyMismatchError
        It belongs to another vocabulary.
    OutOfRangeError
        The layer of the contrastive term is deeper than the encoder.
    """
    if options.start_from:
        loaded = load_model(options.start_from, vocabulary=vocabulary)
        model = loaded.network
        if not loaded.has_head:
            msg = (
                f"start_from={options.start_from!r} has no vocabulary head, so it cannot predict masked genes. Go on "
                "from a pretrained checkpoint; a fine-tuned one has lost its head."
            )
            raise CheckpointError(msg)
    else:
        config = architecture_config(options.architecture, vocab_size=vocabulary.size)
        for name, size in ((RELATIVE_CLIP, options.relative_positions), (ATTENTION_WINDOW, options.attention_window)):
            if size:
                setattr(config, name, size)
        model = GeneformerForMaskedLM(config)
    model.config.geneformer_vocabulary = vocabulary.fingerprint
    n_layers = int(model.config.num_hidden_layers)
    if options.contrastive_layer < -n_layers:
        msg = (
            f"contrastive_layer={options.contrastive_layer} is outside the {n_layers} layers of the encoder. It takes "
            f"0 for the last layer down to {-n_layers} for the input embeddings."
        )
        raise OutOfRangeError(msg)
    return model
