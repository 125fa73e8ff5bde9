"""The keeper: one process of an application that holds what must outlive replicas."""
