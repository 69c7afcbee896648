"""Reverse M-PESA payments through Kopo Kopo: once each, with the outcome decided by evidence.

Imports point one way, from the edges to the rules:

    assembly  web                                              what the handlers call
        initiate  reconcile  notifications  publish  subscribe            the jobs
            tokens  signing_keys                               what the jobs share
                kopokopo  store  topic  evidence_queue  secretsmanager  archive      one module per neighbour
                    payloads  events  listing  signature  schedule                   what a message means: pure
                        rules  model  errors                                         the rules: pure
"""

__version__ = "0.1.0"
