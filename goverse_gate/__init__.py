"""The gate process: where clients come in.

Fronts (the batched session, HTTP) decode and encode and decide nothing. `Ingress` is the only
door from a front to the cluster. A gate hosts no objects and never decodes arguments.
"""
