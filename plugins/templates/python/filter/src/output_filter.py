"""componentize-py looks for a resource's class in a module with the interface's name."""

from hook import Filter as Filter
