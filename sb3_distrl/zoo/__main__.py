from sb3_distrl.zoo.cli import main

main()
