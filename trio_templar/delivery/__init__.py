"""From a publication to a socket."""
