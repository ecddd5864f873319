"""AgentField's wire protocol: its paths and shapes, over the same stages and reads as everything else."""
