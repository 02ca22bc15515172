"""Roles: what a weight does in its network, told from its name as the common frameworks give it.

Transformers (Llama, Mistral, Qwen, Gemma, GPT-2, NeoX, OPT, BERT, T5, ViT, Mixtral), Meta's own Llama, and llama.cpp.
"""

import re

# The first whose expression is the end of the name, from a component's beginning on.
_ROLES = tuple(
    (re.compile(rf"(?:^|\.)(?:{expression})$"), role)
    for expression, role in (
        (r"DenseReluDense\.wo", "mlp.down"),  # T5's: wo is attention's elsewhere
        (r"lm_head|embed_out|(?<!\.)output|cls\.predictions\.decoder", "lm_head"),
        (r"wpe|embed_positions|position_embeddings?|position_embd|pos_embed", "embed_position"),
        (r"embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|token_embd|shared|embed|embeddings?", "embed"),
        (r"c_attn|query_key_value|qkv(?:_proj)?|attn_qkv|Wqkv|W_pack|in_proj_weight|in_proj", "qkv_proj"),
        (
            r"(?:attention\.self|attn\.self|attention)\.query|q_proj|attn_q|wq|to_q|SelfAttention\.q|EncDecAttention\.q",
            "q_proj",
        ),
        (
            r"(?:attention\.self|attn\.self|attention)\.key|k_proj|attn_k|wk|to_k|SelfAttention\.k|EncDecAttention\.k",
            "k_proj",
        ),
        (
            r"(?:attention\.self|attn\.self|attention)\.value|v_proj|attn_v|wv|to_v|SelfAttention\.v|EncDecAttention\.v",
            "v_proj",
        ),
        (
            r"o_proj|out_proj|attn_output|wo|to_out\.0|SelfAttention\.o|EncDecAttention\.o"
            r"|attn\.c_proj|attention\.output\.dense|attention\.dense|attn\.proj|self_attention\.dense",
            "o_proj",
        ),
        (r"(?:mlp|block_sparse_moe)\.gate|ffn_gate_inp|router(?:\.layer)?", "router"),
        (r"gate_up_proj|ffn_gate_up", "mlp.gate_up"),
        (
            r"gate_proj|ffn_gate(?:_exps|_shexp)?|(?:feed_forward|experts\.\d+|mlp|ffn)\.w1|DenseReluDense\.wi_0",
            "mlp.gate",
        ),
        (
            r"up_proj|ffn_up(?:_exps|_shexp)?|(?:feed_forward|experts\.\d+|mlp|ffn)\.w3|DenseReluDense\.wi(?:_1)?"
            r"|mlp\.c_fc|fc1|dense_h_to_4h|intermediate\.dense|fc_in",
            "mlp.up",
        ),
        (
            r"down_proj|ffn_down(?:_exps|_shexp)?|(?:feed_forward|experts\.\d+|mlp|ffn)\.w2"
            r"|mlp\.c_proj|fc2|dense_4h_to_h|output\.dense|fc_out",
            "mlp.down",
        ),
        (r"lora_A(?:\.\w+)?|lora_down", "lora_a"),
        (r"lora_B(?:\.\w+)?|lora_up", "lora_b"),
    )
)
_LONGEST = 1000  # characters; no name of a parameter has as many


def role_of(name: str) -> str | None:
    """Return the role of the weight of a name, None where the name tells none.

    >>> role_of("model.layers.0.self_attn.q_proj.weight"), role_of("blk.3.ffn_up.weight"), role_of("conv1.weight")
    ('q_proj', 'mlp.up', None)
    """
    if len(name) > _LONGEST:
        return None
    bare = name.removesuffix(".weight")
    return next((role for expression, role in _ROLES if expression.search(bare)), None)


_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|blk|h|blocks|block)\.(\d{1,6})\.")


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a weight stands in, None where the name tells none."""
    found = _LAYER.search(name[:_LONGEST])
    return None if found is None else int(found[1])
