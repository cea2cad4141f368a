"""Architectures on one contract (see `models.base`). A name maps to an import path, so listing them imports nothing."""

ARCHITECTURES = {
    "mamba1": "models.mamba1:Mamba1",
    "mamba2": "models.mamba2:Mamba2",
    "transformer": "models.transformer:Transformer",
    "sliding": "models.sliding:SlidingTransformer",
    "lstm": "models.recurrent:LSTM",
    "gru": "models.recurrent:GRU",
    "gated_deltanet": "models.gated_deltanet:GatedDeltaNet",
    "rwkv7": "models.rwkv7:Rwkv7",
    "hybrid": "models.hybrid:Hybrid",
    "rmt": "models.rmt:RecurrentMemoryTransformer",
    "lookup": "models.lookup:Lookup",
}
