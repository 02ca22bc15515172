import pytest

from sn_graph.model.checkpoint import role_of
from sn_graph.model.checkpoint.roles import layer_of

NAMES = {
    "model.embed_tokens.weight": "embed",
    "transformer.wte.weight": "embed",
    "bert.embeddings.word_embeddings.weight": "embed",
    "token_embd.weight": "embed",
    "transformer.wpe.weight": "embed_position",
    "lm_head.weight": "lm_head",
    "output.weight": "lm_head",
    "gpt_neox.embed_out.weight": "lm_head",
    "model.layers.0.self_attn.q_proj.weight": "q_proj",
    "layers.0.attention.wq.weight": "q_proj",
    "bert.encoder.layer.0.attention.self.query.weight": "q_proj",
    "vit.encoder.layer.0.attention.attention.query.weight": "q_proj",
    "encoder.block.0.layer.0.SelfAttention.q.weight": "q_proj",
    "blk.11.attn_q.weight": "q_proj",
    "model.layers.0.self_attn.k_proj.weight": "k_proj",
    "blk.11.attn_k.weight": "k_proj",
    "model.layers.0.self_attn.v_proj.weight": "v_proj",
    "model.layers.0.self_attn.o_proj.weight": "o_proj",
    "model.decoder.layers.0.self_attn.out_proj.weight": "o_proj",
    "bert.encoder.layer.0.attention.output.dense.weight": "o_proj",
    "gpt_neox.layers.0.attention.dense.weight": "o_proj",
    "transformer.h.0.attn.c_proj.weight": "o_proj",
    "encoder.block.0.layer.0.SelfAttention.o.weight": "o_proj",
    "transformer.h.0.attn.c_attn.weight": "qkv_proj",
    "blocks.0.attn.qkv.weight": "qkv_proj",
    "model.layers.0.mlp.gate_proj.weight": "mlp.gate",
    "model.layers.3.block_sparse_moe.experts.7.w1.weight": "mlp.gate",
    "model.layers.0.mlp.up_proj.weight": "mlp.up",
    "layers.0.feed_forward.w3.weight": "mlp.up",
    "transformer.h.0.mlp.c_fc.weight": "mlp.up",
    "bert.encoder.layer.0.intermediate.dense.weight": "mlp.up",
    "blk.0.ffn_up.weight": "mlp.up",
    "model.layers.0.mlp.down_proj.weight": "mlp.down",
    "bert.encoder.layer.0.output.dense.weight": "mlp.down",
    "encoder.block.0.layer.1.DenseReluDense.wo.weight": "mlp.down",
    "model.layers.0.mlp.gate.weight": "router",
    "blk.0.ffn_gate_inp.weight": "router",
    "conv1.weight": None,
    "encoder.layers.output.weight": None,
    "my_q_proj_like.weight": None,
    "": None,
    "x" * 100_000: None,
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:60])
def test_names_of_the_common_frameworks_tell_their_role(name: str) -> None:
    assert role_of(name) == NAMES[name]


def test_layers_are_read_from_names() -> None:
    assert layer_of("model.layers.12.self_attn.q_proj.weight") == 12
    assert layer_of("blk.3.attn_q.weight") == 3
    assert layer_of("lm_head.weight") is None
