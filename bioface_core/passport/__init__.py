"""How does a model leave the lab? As a sealed folder: weights, a graph that needs no torch, and a card that is honest.

seal.py     is it what its maker made?
card.py     what must be known before it is used?
graph.py    the model as an ONNX graph
export.py   a run in, a sealed folder out; and back into an ``Expert``
rank.py     travels with the folder: asks the graph, needs numpy, pillow and onnxruntime alone
"""
