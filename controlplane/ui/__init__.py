"""What people see: pages made on the server, which ask the API as their reader would, and act through it."""
