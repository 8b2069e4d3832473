"""What a pretraining run begins with: an encoder of random weights, or one that has learnt before."""

from transformers import BertConfig

from geneformer.errors import CheckpointError, VocabularyMismatchError
from geneformer.models.architectures import architecture_config
from geneformer.models.checkpoint import build_model, read_config, read_weights
from geneformer.models.extensions import ATTENTION_WINDOW, RELATIVE_CLIP
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import find_folder, recognize_vocabulary
from geneformer.options import PretrainOptions
from geneformer.tasks.inputs import check_layer
from geneformer.vocab.vocabulary import Vocabulary


def initial_config(options: PretrainOptions, vocabulary: Vocabulary) -> BertConfig:
    """Configuration of the encoder to train; what is wrong with it shows before any work.

    Parameters
    ----------
    options
        Architecture and extensions, or the model to go on from.
    vocabulary
        Vocabulary of the tokens.

    Raises
    ------
    VocabularyMismatchError
        The model to go on from belongs to another vocabulary.
    UnknownModelError, CheckpointError
        There is no such model or architecture, or it is incomplete.
    OutOfRangeError
        The layer of the contrastive term is deeper than the encoder.
    """
    if options.start_from:
        folder = find_folder(options.start_from)
        config = read_config(folder)
        try:
            recognize_vocabulary(config, folder, vocabulary)
        except VocabularyMismatchError as error:
            msg = (
                f"start_from={options.start_from!r} was made with another vocabulary than {vocabulary.name}, which "
                "this run uses. Pass its own as vocabulary, or go on from another model."
            )
            raise VocabularyMismatchError(msg) from error
    else:
        config = architecture_config(options.architecture, vocab_size=vocabulary.size)
        for name, size in ((RELATIVE_CLIP, options.relative_positions), (ATTENTION_WINDOW, options.attention_window)):
            if size:
                setattr(config, name, size)
    name = options.start_from or options.architecture
    check_layer(options.contrastive_layer, name, config.num_hidden_layers, option="contrastive_layer")
    return config


def initial_model(options: PretrainOptions, vocabulary: Vocabulary) -> GeneformerForMaskedLM:
    """The network before its first step; random weights come from PyTorch's global generator.

    Parameters
    ----------
    options, vocabulary
        As for `initial_config`, whose errors are raised here too.

    Raises
    ------
    CheckpointError
        The model to go on from has no vocabulary head, so that it cannot predict masked genes.
    """
    config = initial_config(options, vocabulary)
    if not options.start_from:
        model = GeneformerForMaskedLM(config)
    else:
        folder = find_folder(options.start_from)
        model, has_head = build_model(config, read_weights(folder), str(folder))
        if not has_head:
            msg = (
                f"start_from={options.start_from!r} has no vocabulary head, so it cannot predict masked genes. Go on "
                "from a pretrained checkpoint; a fine-tuned one has lost its head."
            )
            raise CheckpointError(msg)
    model.config.geneformer_vocabulary = vocabulary.fingerprint
    return model
