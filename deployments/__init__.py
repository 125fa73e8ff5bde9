"""Models as Ray Serve deployments: settings, sources, engines, and the policy that decides which are up."""
