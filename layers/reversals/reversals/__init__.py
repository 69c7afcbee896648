"""Reverse M-PESA payments through Kopo Kopo: once each, with the outcome decided by evidence.

Imports point one way, from the edges to the rules:

    web, notifications, announcements        what the handlers call
        service, tokens, signing_keys        the use of the parts together
            kopokopo (transport)  secretsmanager  store  topic     one module per neighbour
                payloads  events  signature  schedule             what a message means
                    rules  errors                                 pure: no clock, no network, no AWS
"""

__version__ = "0.1.0"
