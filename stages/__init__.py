"""The method: one rung of a cascade of diffusion models, and the chain of rungs.

A *stage* is a diffusion model at one image size: the base stage draws small images of a class, a
super-resolution stage draws larger ones given smaller ones. **Stages are independent**: each trains on
real images alone (its low-resolution input is a real image, shrunk and augmented), never on another
stage's output. So all stages can train at the same time, and the chain exists only when sampling.

This package imports torch, numpy, pydantic and safetensors, nothing above it: it runs in a notebook and on
a machine that has neither Ray nor MLflow.

Reading order: ``specs`` (what a stage is, in words and numbers; its parts in the other ``*_specs``),
``schedules`` and ``process`` (the forward process and its inverse), ``augmentation``, ``losses`` and ``bound``,
``randomness`` (where every draw comes from), ``layers`` (with ``recomputing``, which spares memory) and
``unet``, then ``adm``, and ``uvit`` with ``patches`` and ``wavelets``, ``stage`` (the parts joined),
``training`` with ``optimizers`` and ``averages`` (one step, and the weights' averages), ``compiling`` and
``compilers``, ``samplers``, ``guidance`` and ``cascade`` (the chain), ``checkpoints``, ``accounting`` (what it
costs), ``processor`` (how a process uses the CPU), ``benchmark`` (what it costs where you are).
"""
