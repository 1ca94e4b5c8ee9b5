"""A llama model of half a megabyte made on the spot: random weights, readable words, a ChatML template.

Its text is word salad, but the engine that runs it is real: tokenising, batching, KV cache, sampling, stops, aborts.

Dimension 0 of the residual stream is a constant that no layer writes to, so column 0 of the output matrix is a bias:
up for the words, down for the raw bytes, and for the end-of-turn token whatever gives the wanted chance of a stop.
"""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

WORDS = (  # noqa: SIM905 - a list of 97 literals would hide the words
    "the a of to and in is it that was for on are as with his they at be this from have or one had by word but not "
    "what all were we when your can said there use an each which she do how their if will up other about out many "
    "then them these so some her would make like him into time has look two more write go see number no way could "
    "people my than first water been call who oil its now find long down day did get come made may part"
).split()
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TURN = 2
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EMBEDDING, FORWARD, HEADS, CONTEXT = 64, 128, 2, 8192
WORD_BIAS, BYTE_BIAS, NEVER = 10.0, -40.0, -100.0
NORMED = 4.0
"""About what dimension 0 is after the last norm."""


def write_tiny_gguf(path: Path, *, stop: float = 0.02, layers: int = 2, seed: int = 0) -> Path:
    """Write the model. `stop` is about the chance that a token ends the answer; 0 runs until `max_tokens`.

    `layers` makes it slow: about 9000 tokens/s with 2 layers, 1700 with 32, 400 with 100 (17 MB).
    """
    tokens = SPECIAL + _byte_characters() + ["Ġ" + word for word in WORDS]
    writer = gguf.GGUFWriter(str(path), "llama")
    _metadata(writer, tokens, layers)
    _tensors(writer, len(tokens), layers, stop, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    moved = (chr(256 + n) for n in range(256))
    return [chr(byte) if byte in kept else next(moved) for byte in range(256)]


def _metadata(writer: gguf.GGUFWriter, tokens: list[str], layers: int) -> None:
    writer.add_name("tiny-words")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL)
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["Ġ t", "Ġ a"])  # none are needed, but the array may not be empty
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END_OF_TURN)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _tensors(writer: gguf.GGUFWriter, vocabulary: int, layers: int, stop: float, random: np.random.Generator) -> None:
    def drawn(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        weights: NDArray[np.float32] = (random.standard_normal(shape) * scale / np.sqrt(shape[-1])).astype(np.float32)
        return weights

    embedding = drawn(vocabulary, EMBEDDING, scale=8.0)
    embedding[:, 0] = 8.0
    writer.add_tensor("token_embd.weight", embedding)
    square, up, down = (EMBEDDING, EMBEDDING), (FORWARD, EMBEDDING), (EMBEDDING, FORWARD)
    for layer in range(layers):
        for name, shape in (
            ("attn_q", square),
            ("attn_k", square),
            ("attn_v", square),
            ("ffn_gate", up),
            ("ffn_up", up),
        ):
            writer.add_tensor(f"blk.{layer}.{name}.weight", drawn(*shape))
        for name, shape in (("attn_output", square), ("ffn_down", down)):
            weights = drawn(*shape)
            weights[0, :] = 0.0  # leaves dimension 0 alone
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(EMBEDDING, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(EMBEDDING, np.float32))
    output = drawn(vocabulary, EMBEDDING, scale=2.0)
    output[:, 0] = BYTE_BIAS / NORMED
    output[-len(WORDS) :, 0] = WORD_BIAS / NORMED
    output[END_OF_TURN, :] = 0.0
    # The words' mean weight is exp(variance / 2) with the variance 4 that the scale gives.
    chance = WORD_BIAS + np.log(stop * len(WORDS)) + 2.0 if stop > 0 else NEVER
    output[END_OF_TURN, 0] = chance / NORMED
    writer.add_tensor("output.weight", output)
