"""The articulated hand: a person's shape, a pose within anatomical limits, skinning, the labelled joints."""
