"""What is seen: SELECT only, one module per thing that people look at."""
