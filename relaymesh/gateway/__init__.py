"""The gateway: an HTTP face in the shape of the OpenAI API, behind which jobs are bought from the mesh."""
