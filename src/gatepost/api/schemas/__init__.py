"""The shapes of bodies and answers, as the OpenAPI document shows them, noun by noun. Rules live in the domain."""
