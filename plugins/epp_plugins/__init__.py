"""Every in-tree plugin, one file per plugin type. Imports only epp.api, as third-party plugins do."""
