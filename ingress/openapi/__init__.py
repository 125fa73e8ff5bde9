"""What `/openapi.json` says: FastAPI's document of the routes, completed by what FastAPI cannot know of them."""
