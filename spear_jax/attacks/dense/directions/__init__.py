"""Float64 work on directions that every proposer needs: polish, count, merge, choose, solve for the inputs."""
