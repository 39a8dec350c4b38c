"""Configs of real models, in the keys that their costs and sizes depend on."""

MISTRAL_7B = {
    "model_type": "mistral", "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
CODESTRAL_7B = {
    "model_type": "mamba2", "vocab_size": 32768, "hidden_size": 4096, "num_hidden_layers": 64, "num_heads": 128,
    "head_dim": 64, "state_size": 128, "n_groups": 8, "conv_kernel": 4, "expand": 2,
}  # fmt: skip
FALCON_MAMBA_7B = {  # its config.json, in the keys that matter; `expand` is what it says there
    "model_type": "falcon_mamba", "vocab_size": 65024, "hidden_size": 4096, "intermediate_size": 8192, "expand": 16,
    "num_hidden_layers": 64, "state_size": 16, "conv_kernel": 4, "time_step_rank": 256,
}  # fmt: skip
MAMBA_2_8B = {
    "model_type": "mamba", "vocab_size": 50280, "hidden_size": 2560, "num_hidden_layers": 64, "expand": 2,
    "state_size": 16, "conv_kernel": 4, "time_step_rank": "auto",
}  # fmt: skip
