"""Plans: what a container is before it exists. Pure: nothing here touches the machine."""
