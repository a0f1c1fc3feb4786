"""The same network elsewhere: a checkpoint in; a fused network, an ONNX graph or an int8 file out, and one
call that runs any of them: normalised crops in, joints and confidence out."""
