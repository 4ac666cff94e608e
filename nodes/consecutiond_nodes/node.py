"""Where users find the class they subclass."""

from consecutiond_nodes.graph import Node

#: The name that the class has in the first design of this system.
BaseNode = Node

__all__ = ["BaseNode", "Node"]
