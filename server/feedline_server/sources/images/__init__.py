"""Images as samples: listed, checked by their headers, decoded."""
