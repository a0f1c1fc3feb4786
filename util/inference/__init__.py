"""A depth frame in, a hand out: find the hand, crop, run the network, map the joints back to the camera.

Start with `util.inference.predictor.HandPosePredictor`, for streams `util.inference.tracker.HandTracker`."""
